"""What is measured of each document, independent of any threshold."""
