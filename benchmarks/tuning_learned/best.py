from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO

env = VecNormalize(make_vec_env("InvertedDoublePendulum-v5", n_envs=8))
model = BARPO(
    "MlpPolicy",
    env,
    n_steps=256,
    batch_size=256,
    learning_rate=LinearSchedule(0.001, 0.0, 1.0),
    max_grad_norm=10.0,
    policy_kwargs=dict(log_std_init=-1.0),
    epsilon="ramp_0.03_0.3189_0.09111_1.0",
    margin=1.111,
    kappa=0.3818,
)
model.learn(200000)
model.save("agent")
model.get_vec_normalize_env().save("vecnormalize.pkl")
