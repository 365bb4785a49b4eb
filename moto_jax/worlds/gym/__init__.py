"""Any Gymnasium environment with continuous actions, learnt from pixels."""
