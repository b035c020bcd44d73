"""Moves as this host runs them: what each one works with, and the queue that they wait in."""
