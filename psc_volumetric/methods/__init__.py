"""Base methods: what the levels of a brick stand on. One folder each, behind one protocol."""
