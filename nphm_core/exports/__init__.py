"""What others take in: data-set layouts, head-model files, meshes with morph targets, landmark files."""
