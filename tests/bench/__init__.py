"""`make bench`: figures of speed, each beside the limit that it is to be held against, measured in the same run."""
