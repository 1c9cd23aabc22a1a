"""Converters of annotations that lie in files of their own, each in the layout in which its dataset is published."""
