"""What the brain does with batches: check, feed, collect, close.

Everything is driven in small steps, each a compare-and-set: a brain killed anywhere
leaves at most one chunk to be written once more.
"""
