"""What the live viewer shows, without the viewer: heads that follow sliders, scans with their error maps."""
