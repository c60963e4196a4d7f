"""A backend without a library: a package of its own for tests, one scheme for each way to fail."""

CODE = '''
import torch
from safetensors.torch import load_file, save_file


class Packed(torch.nn.Module):
    """A linear layer of int8 codes and a scale a row."""

    def __init__(self, codes, scale, bias):
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def numbers(self):
        return self.codes * self.scale

    def forward(self, inputs):
        return torch.nn.functional.linear(inputs, self.numbers(), self.bias)


def layers(model):
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    ]


class Backend:
    schemes = dict.fromkeys(
        ("good", "unpacked", "hidden", "other", "nan", "mute", "nothing", "breaks", "absent"), 8
    )

    def unavailable(self, scheme, device):
        return "fakelib is not installed (pip install fakelib)" if scheme == "absent" else None

    def pack(self, model, scheme):
        self.scheme = scheme
        if scheme == "breaks":
            raise RuntimeError("/home/somebody/secret")
        names = [] if scheme == "nothing" else layers(model)
        for name in names:
            weight = model.get_submodule(name).weight.detach()
            scale = weight.abs().amax(1, keepdim=True) / 127
            packed = Packed((weight / scale).round().to(torch.int8), scale, None)
            model.set_submodule(name, packed)
        return [f"{name}.weight" for name in names]

    def plain(self, model, name):
        return model.get_submodule(name.removesuffix(".weight")).numbers()

    def save(self, model, folder):
        stored = {k: v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
        packed = {}
        for name, module in model.named_modules():
            if isinstance(module, Packed):
                packed[f"{name}.weight"] = [f"{name}.codes", f"{name}.scale"]
                if self.scheme == "unpacked":
                    stored[f"{name}.codes"] = module.numbers()
                if self.scheme == "hidden":
                    stored[f"{name}.copy"] = module.numbers()
        if self.scheme == "nan":
            stored["model.norm.weight"] = stored["model.norm.weight"] * float("nan")
        save_file(stored, folder / "packed.safetensors")
        return packed

    def load(self, model, scheme, folder, like):
        stored = load_file(folder / "packed.safetensors")
        for name in layers(model):
            codes, scale = stored[f"{name}.codes"], stored[f"{name}.scale"]
            if scheme == "other":
                scale = scale * 1.001
            if scheme == "unpacked":
                codes = (codes / scale).round().to(torch.int8)
            model.set_submodule(name, Packed(codes, scale, None))
        own = (".codes", ".scale", ".copy")
        rest = {k: v for k, v in stored.items() if not k.endswith(own)}
        model.load_state_dict(rest, strict=False, assign=True)
        if scheme == "mute":
            def generate(**options):
                raise ValueError("no")
            model.generate = generate
'''
