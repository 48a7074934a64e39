"""The stages of the pipeline: each function reads files of a work directory and writes others."""
