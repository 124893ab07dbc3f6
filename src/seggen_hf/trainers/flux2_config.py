"""The public configuration of FLUX.2-klein-base-4B: a dry run needs no network.

The published files themselves were not at hand. The transformer's depths and width are those of `Klein4BParams` of
black-forest-labs/flux2 as others copied them, in diffusers' names; the autoencoder's figures are the defaults of
diffusers' `AutoencoderKLFlux2`, which were made for FLUX.2; the text encoder's are those known of Qwen3-4B. The counts
of parameters that follow agree with the sizes that the models are named by.
"""

FLUX2_BASE_ID = "black-forest-labs/FLUX.2-klein-base-4B"

FLUX2_TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 128,
    "num_layers": 5,
    "num_single_layers": 20,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "timestep_guidance_channels": 256,
    "mlp_ratio": 3.0,
    "axes_dims_rope": [32, 32, 32, 32],
    "rope_theta": 2000,
    "eps": 1e-6,
    "guidance_embeds": False,
}
FLUX2_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 32,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "batch_norm_eps": 1e-4,
    "patch_size": [2, 2],
}
FLUX2_TEXT_ENCODER = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
FLUX2_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
FLUX2_CONFIGS = {
    "transformer": FLUX2_TRANSFORMER,
    "vae": FLUX2_VAE,
    "text_encoder": FLUX2_TEXT_ENCODER,
    "scheduler": FLUX2_SCHEDULER,
}
