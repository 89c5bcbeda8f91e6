"""Upscales the frames of a clip and reports the sharpness of each."""

import argparse

import torch


def upscaler(net, device):
    @torch.inference_mode()
    def run(frames):
        sharpness = []
        for frame in frames:
            large = net(frame.to(device))
            centre = large[..., 80:240, 80:240]
            edges = (centre[..., 1:] - centre[..., :-1]).abs().mean()
            sharpness.append(edges.item())
            del large, centre, edges
        return sharpness

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--factor", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = torch.nn.ConvTranspose2d(3, 3, args.factor, stride=args.factor).to(device)
    clip = torch.rand(args.frames, 2, 3, 40, 40)
    for value in upscaler(net, device)(clip):
        print(value)


main()
