"""Meta-learning: learning to learn a task from a few labelled images."""
