"""Ten MetaWorld tasks from one image, with the settings of the paper's experiments."""
