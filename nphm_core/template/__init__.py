"""The template: head model, landmark embedding, regions, anchors."""
