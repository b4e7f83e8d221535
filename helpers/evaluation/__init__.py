"""Answers the test questions with each model and scores the answers."""
