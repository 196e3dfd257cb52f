"""Training samples: signed distances and deformation pairs."""
