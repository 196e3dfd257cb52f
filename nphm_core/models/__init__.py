"""Neural fields of heads, their baselines, their codes and their checkpoints. All lengths in canonical units."""
