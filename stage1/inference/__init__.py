"""A backbone in use: its BatchNorm statistics, features and accuracy."""
