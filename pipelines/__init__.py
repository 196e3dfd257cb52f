"""Commands: one for each stage and each thing that a user does."""

import os

# Threads of PyTorch that wait for each other sleep: by default they spin, and on a machine that does other work too a
# mesh then costs three times the CPU seconds. Read when PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
