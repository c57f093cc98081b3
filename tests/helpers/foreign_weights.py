"""Networks of other methods: names, files, and reference forward passes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cotap_mm.models.backbones.dino_vit import DINOViT, VisionTransformer

WIDTH, DEPTH, HEADS, PATCH, SIDE = 16, 2, 2, 8, 32
ARCH = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS, feedforward_channels=32)


def small_vit(kind=VisionTransformer, img_size=SIDE, **kwargs):
    """Build a ViT that fits the state dicts below; ``final_norm`` must be requested."""
    kwargs = {**({} if kind is DINOViT else dict(final_norm=False)), **kwargs}
    model = kind(arch=dict(ARCH), img_size=img_size, patch_size=PATCH, out_type='raw', **kwargs)
    model.eval()
    return model


def timm_names(seed=0, norm=True, tokens=1 + (SIDE // PATCH) ** 2, width=WIDTH, depth=DEPTH):
    """Draw random weights by the names of timm and DINO."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    params = {
        'cls_token': draw(1, 1, width),
        'pos_embed': draw(1, tokens, width),
        'patch_embed.proj.weight': draw(width, 3, PATCH, PATCH),
        'patch_embed.proj.bias': draw(width),
    }
    for index in range(depth):
        for name, shape in (
            ('norm1', (width,)),
            ('attn.qkv', (3 * width, width)),
            ('attn.proj', (width, width)),
            ('norm2', (width,)),
            ('mlp.fc1', (32, width)),
            ('mlp.fc2', (width, 32)),
        ):
            params[f'blocks.{index}.{name}.weight'] = draw(*shape)
            params[f'blocks.{index}.{name}.bias'] = draw(shape[0])
    if norm:
        params.update({'norm.weight': draw(width), 'norm.bias': draw(width)})
    return params


def timm_forward(params, images, final_norm=False):
    """Compute the tokens after the last block by the definition of a ViT."""
    patches = (
        F.conv2d(
            images, params['patch_embed.proj.weight'], params['patch_embed.proj.bias'], stride=PATCH
        )
        .flatten(2)
        .transpose(1, 2)
    )
    cls = params['cls_token'].expand(len(images), -1, -1)
    x = torch.cat([cls, patches], dim=1) + params['pos_embed']

    def linear(name, value):
        return F.linear(value, params[name + '.weight'], params[name + '.bias'])

    def norm(name, value):
        return F.layer_norm(value, (WIDTH,), params[name + '.weight'], params[name + '.bias'], 1e-6)

    for index in range(DEPTH):
        block = f'blocks.{index}.'
        qkv = linear(block + 'attn.qkv', norm(block + 'norm1', x))
        query, key, value = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2)
        )
        weights = (query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5).softmax(dim=3)
        x = x + linear(block + 'attn.proj', (weights @ value).transpose(1, 2).flatten(2))
        hidden = F.gelu(linear(block + 'mlp.fc1', norm(block + 'norm2', x)))
        x = x + linear(block + 'mlp.fc2', hidden)
    return norm('norm', x) if final_norm else x


def hf_names(params, prefix='vit.'):
    """Rename weights to Hugging Face's names, with separate query, key and value."""
    table = {
        'norm1': 'layernorm_before',
        'norm2': 'layernorm_after',
        'attn.proj': 'attention.output.dense',
        'mlp.fc1': 'intermediate.dense',
        'mlp.fc2': 'output.dense',
    }
    stored = {
        'embeddings.cls_token': params['cls_token'],
        'embeddings.position_embeddings': params['pos_embed'],
    }
    for kind in ('weight', 'bias'):
        stored[f'embeddings.patch_embeddings.projection.{kind}'] = params[
            f'patch_embed.proj.{kind}'
        ]
        stored[f'layernorm.{kind}'] = params[f'norm.{kind}']
        for index in range(DEPTH):
            ours, theirs = f'blocks.{index}.', f'encoder.layer.{index}.'
            parts = params[f'{ours}attn.qkv.{kind}'].chunk(3)
            for name, value in zip(('query', 'key', 'value'), parts):
                stored[f'{theirs}attention.attention.{name}.{kind}'] = value
            for old, new in table.items():
                stored[f'{theirs}{new}.{kind}'] = params[f'{ours}{old}.{kind}']
    return {prefix + name: value for name, value in stored.items()}


def hf5_names(params, prefix='vit.'):
    """Rename weights to Hugging Face's names in memory since transformers 5."""
    renamed = {
        'attention.attention.query': 'attention.q_proj',
        'attention.attention.key': 'attention.k_proj',
        'attention.attention.value': 'attention.v_proj',
        'attention.output.dense': 'attention.o_proj',
        'intermediate.dense': 'mlp.fc1',
        'output.dense': 'mlp.fc2',
        'encoder.layer': 'layers',
    }
    stored = {}
    for name, value in hf_names(params, prefix).items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        stored[name] = value
    return stored


def under(prefix, params):
    """Add a prefix to all names."""
    return {prefix + name: value for name, value in params.items()}


def last_tokens(model, images):
    """Return the output (B, 1 + N, d) of the model's last block."""
    with torch.no_grad():
        return model(images)[-1]
