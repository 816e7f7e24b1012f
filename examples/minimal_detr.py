"""A whole detection transformer in one file: image in, set of boxes out. Inference only; shapes at the line ends.

The model of DETR's paper (arXiv:2005.12872, appendix A.6), parameters named as in the released `detr_demo` weights.
B images, C = 2048 channels, H x W cells of stride 32, S = H * W tokens, D = 256, Q = 100 queries, K classes.

    python examples/minimal_detr.py photo.jpg detr_demo-da2a99e9.pth
"""

import sys
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn


class MinimalDETR(nn.Module):
    """ResNet-50, one 1x1 convolution, nn.Transformer, learned positions, two linear heads."""

    def __init__(
        self, classes: int = 91, width: int = 256, heads: int = 8, layers: int = 6, queries: int = 100
    ):
        super().__init__()
        self.backbone = torchvision.models.resnet50(weights=None)
        del self.backbone.fc
        self.conv = nn.Conv2d(2048, width, kernel_size=1)
        self.transformer = nn.Transformer(width, heads, layers, layers, batch_first=True)
        self.linear_class = nn.Linear(width, classes + 1)  # the last logit is "no object"
        self.linear_bbox = nn.Linear(width, 4)
        self.query_pos = nn.Parameter(torch.rand(queries, width))
        self.row_embed = nn.Parameter(torch.rand(50, width // 2))
        self.col_embed = nn.Parameter(torch.rand(50, width // 2))

    def features(self, images: Tensor) -> Tensor:
        """Run the ResNet without its classifier."""
        body = self.backbone
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))  # [B, 64, H*8, W*8]
        return body.layer4(body.layer3(body.layer2(body.layer1(x))))  # [B, C, H, W]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [B, 3, 32*H, 32*W] -> class logits [B, Q, K+1], boxes (cx, cy, w, h in 0..1) [B, Q, 4]."""
        x = self.conv(self.features(images))  # [B, D, H, W]
        height, width = x.shape[-2:]
        columns = self.col_embed[:width].expand(height, -1, -1)  # [H, W, D/2]: position along x
        rows = self.row_embed[:height, None].expand(-1, width, -1)  # [H, W, D/2]: position along y
        position = torch.cat([columns, rows], dim=-1).flatten(0, 1)  # [S, D]
        tokens = position + 0.1 * x.flatten(2).transpose(1, 2)  # [B, S, D]
        queries = self.query_pos.expand(len(images), -1, -1)  # [B, Q, D]
        states = self.transformer(
            tokens, queries
        )  # [B, Q, D]: queries attend to the tokens and to one another
        return self.linear_class(states), self.linear_bbox(states).sigmoid()


def main() -> None:
    """Print the detections in one photo."""
    if len(sys.argv) != 3:
        print(f"usage: python {sys.argv[0]} photo.jpg detr_demo-da2a99e9.pth", file=sys.stderr)
        sys.exit(2)
    photo, weights = sys.argv[1:]
    for name in (photo, weights):
        if not Path(name).is_file():
            print(f"{name}: no such file", file=sys.stderr)
            sys.exit(2)
    model = MinimalDETR().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    image = torchvision.io.decode_image(photo, mode="RGB") / 255  # [3, H, W]
    image = torchvision.transforms.functional.resize(image, 800, max_size=1333)
    image = torchvision.transforms.functional.normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.inference_mode():
        logits, boxes = model(image[None])
    scores, labels = logits[0].softmax(-1)[:, :-1].max(-1)  # [Q]
    for query in scores.argsort(descending=True)[scores.sort(descending=True).values > 0.7]:
        print(
            f"query {query}: COCO id {labels[query]}, score {scores[query]:.2f}, box {boxes[0, query].tolist()}"
        )


if __name__ == "__main__":
    main()
