"""Frozen features of boxes: from proposals and a head to detections and their average precision."""
