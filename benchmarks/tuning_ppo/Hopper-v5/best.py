from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

env = VecNormalize(make_vec_env("Hopper-v5", n_envs=8))
model = PPO(
    "MlpPolicy",
    env,
    n_steps=128,
    batch_size=32,
    learning_rate=LinearSchedule(8.339e-05, 0.0, 1.0),
    max_grad_norm=1.282,
    policy_kwargs=dict(log_std_init=-1.408),
    n_epochs=10,
    clip_range=0.1475,
    ent_coef=0.008701,
    gae_lambda=0.9247,
)
model.learn(300000)
model.save("agent")
model.get_vec_normalize_env().save("vecnormalize.pkl")
