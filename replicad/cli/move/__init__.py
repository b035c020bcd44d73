"""`replicad move`: a module for each group of its verbs."""
