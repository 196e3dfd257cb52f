"""Codes and pose of a trained model from observed points."""
