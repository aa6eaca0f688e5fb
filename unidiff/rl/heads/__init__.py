"""What is learned of clean data to be paid for: a reward model from preferences, a classifier from labels."""
