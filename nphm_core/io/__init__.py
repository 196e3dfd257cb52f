"""Files: meshes of any kind, the scan table, arrays, facts and data-set layouts."""
