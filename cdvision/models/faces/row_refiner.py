"""What W+ rows can say beyond the encoder's: the face's shape, out of F.

::

    F, standardised ─ 3x3 convolutions down to 4² ─ linear, LeakyReLU ─ linear ─ directions ─▶ + S

The style head reads means of three by three cells through a narrow layer: 28 bytes hold all that it
says of a picture. Where F is not sent, its shapes must come through the rows. What is added is
learned along directions that change the picture about equally much: pictures depend on some values
of a row a thousandfold more than on others.

The design is ours; rows as the only code of a face: Mao et al., "Scalable Face Image Coding via
StyleGAN Prior", IEEE TIP 2024.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.inversion_encoder import Standardise
from cdvision.models.faces.widths import FACE, FaceWidths

LAST_SIDE = 4  # cells a side of what the linear layers read
CHANNELS, HIDDEN, DIRECTIONS = 128, 320, 256


class RowRefiner(nn.Module):
    """Rows and F of one face to better rows; F's side is a power of two of at least 4."""

    def __init__(self, widths: FaceWidths = FACE) -> None:
        super().__init__()
        values, channels = widths.rows * widths.style, widths.feature_channels
        self.standard = Standardise(channels)
        self.convs = nn.ModuleList()
        for _ in range((widths.feature_side // LAST_SIDE).bit_length() - 1):
            self.convs.append(nn.Conv2d(channels, CHANNELS, 3, 2, 1))
            channels = CHANNELS
        self.hidden = nn.Linear(channels * LAST_SIDE**2, min(HIDDEN, values))
        self.out = nn.Linear(min(HIDDEN, values), min(DIRECTIONS, values))
        self.directions = nn.Linear(min(DIRECTIONS, values), values, bias=False)
        for layer in (*self.convs, self.hidden):
            nn.init.kaiming_normal_(layer.weight, a=0.1)
        nn.init.zeros_(self.out.weight)  # at first, rows are the encoder's
        nn.init.zeros_(self.out.bias)

    def forward(self, rows: Tensor, feature: Tensor) -> Tensor:
        """Map rows (N, rows, style) and F (N, C, side, side) to rows of the same shape."""
        added: Tensor = self.directions(self.steps(feature).to(rows.dtype))
        return rows + added.view_as(rows)

    def steps(self, feature: Tensor) -> Tensor:
        """Map F to how far to go along each direction, (N, directions)."""
        x = self.standard(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
        told: Tensor = self.out(F.leaky_relu(self.hidden(x.flatten(1)), 0.1))
        return told
