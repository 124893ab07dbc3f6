"""The families of bases: what differs between them, behind one interface (`family.Family`).

A base tells its family itself, by the networks that its model_index.json names: there is no setting to get wrong.
`sdxl`: a U-Net that two CLIP text encoders steer; noise or v is predicted; Mask2Img is a ControlNet.
`flux2`: FLUX.2-klein, a transformer that Qwen3 steers; flow matching; Mask2Img reads the color map as the reference
picture that the base knows, so that the same network is trained for it, and nothing is added.
"""
