"""
The RL Zoo's own programs, with ARPO and BARPO among their algorithms: they import a module of this name from the
folder in which they are started. In this folder:

    python -m rl_zoo3.train --algo barpo --env Hopper-v5 -conf sb3_barpo.hyperparams.barpo

The Zoo hides an ImportError in here. `python -m sb3_barpo train` does the same without this file.
"""

from sb3_barpo import zoo

zoo.register()
