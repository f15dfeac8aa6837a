"""What a store must do before evidence is given to it: checks that are tried, never read about.

`trial.py` has the tools and the verdict, the other modules the checks by what they are about. After
each refused act the version is read back, byte for byte, with its lock. Source: design section 5
("a store is believed only after a probe has tried all this with each of our identities").
"""
