from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO

env = VecNormalize(make_vec_env("InvertedDoublePendulum-v5", n_envs=8))
model = BARPO(
    "MlpPolicy",
    env,
    n_steps=256,
    batch_size=256,
    learning_rate=0.001,
    epsilon="ramp_0.04455_0.2096_0.119_1.0",
    kappa=2.967,
)
model.learn(200000)
model.save("agent")
env.save("vecnormalize.pkl")
