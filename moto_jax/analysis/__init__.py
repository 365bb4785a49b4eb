"""Tables and pictures from run directories; reads files, never live objects."""
