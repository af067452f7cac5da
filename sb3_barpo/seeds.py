"""
Seeds by purpose, in disjoint ranges. Episode ``k`` of an evaluation starts from seed ``first + k``, so results are
reported on other episodes than those that chose what is reported: the best model of a callback, the best trial of a
study, the strongest attack of a search.

Each default in this package is the first seed of its range.
"""

#: Training: environments and algorithm. Trials of a study take these too, from the agent's own seed on.
TRAINING = range(10_000)
#: Episodes on which results are reported, by ``evaluate``, ``demo`` and experiments.
REPORT = range(10_000, 20_000)
#: Episodes on which a study's winners are confirmed.
CONFIRMATION = range(20_000, 30_000)
#: Episodes on which callbacks evaluate during training: they choose the best model, and the best trial.
CALLBACKS = range(30_000, 40_000)
#: Training of a study's winners for their confirmation.
RETRAINING = range(100_000, 110_000)
#: Episodes on which a search compares attacks: the search's own seed is added to the first.
SELECTION = range(1_000_000, 2_000_000)
#: Fits of attackers: the search's own seed is added to the first. No episode of a report, nor one that compares
#: attackers, is among those from which they learn.
FITS = range(2_000_000, 1_000_000_000)
