"""Encoder and images in, numbers out."""
