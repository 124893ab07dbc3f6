import pytest
import torch
from generators import build, lora_unet, train_step, weights

from seggen_hf.trainers.compiled import compile_blocks
from seggen_hf.trainers.loop import train


@pytest.mark.slow
def test_compiled_blocks_keep_names_and_results():
    plain, compiled, graphs = lora_unet(torch.float32), lora_unet(torch.float32), []
    names = list(compiled.state_dict())
    assert compile_blocks(compiled, backend=lambda graph, _: graphs.append(graph) or graph) > 0
    assert list(compiled.state_dict()) == names and not any("_orig_mod" in name for name in names)
    loss, gradients = train_step(plain)
    compiled_loss, found = train_step(compiled)
    assert graphs
    assert compiled_loss == loss and all(torch.allclose(a, b) for a, b in zip(gradients, found, strict=True))


@pytest.mark.slow
def test_the_setting_compiles_and_the_training_goes_on_without_it(miniature_dir, scene_records, tmp_path):
    changes = {"lora_rank": 2, "num_validation_images": 0}
    with torch.compiler.set_stance("force_eager"):
        task, config = build(
            "text2mask", miniature_dir, tmp_path, scene_records, torch_compile=True, max_train_steps=2, **changes
        )
        train(task, config)
    assert any(module._compiled_call_impl is not None for module in task.base.unet.modules())
    task, config = build("text2mask", miniature_dir, tmp_path, scene_records, **changes)
    assert train(task, config).steps == 4
    assert not any("_orig_mod" in name for name in weights(tmp_path))
