"""What answers mean: numbers, the forms of LaTeX, symbolic equality."""
