"""The catalogue of mistakes, file by file like the specs."""
