"""Calibration: what benign runs showed, the limits derived from it, and the preset's file."""
