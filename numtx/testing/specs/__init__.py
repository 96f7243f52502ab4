"""Specs, file by file like `numtx/`: what is known of each op, component and model."""
