"""A long run with everything going wrong at once. It plays on the stage of :mod:`scripts.faultlib`."""
