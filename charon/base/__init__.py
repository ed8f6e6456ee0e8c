"""Floor 0: values and words that every other floor uses. No I/O, no gevent."""
