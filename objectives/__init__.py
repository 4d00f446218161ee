"""What is minimised: pure functions of (network, batch, rng) that return sums with weights.

One objective is one file with one class; see `objectives.base` for the contract and `objectives.masked_lm`
for a complete example. Nothing has to be registered: an experiment names the class, the property suite walks
this package.
"""
