"""From a trained generator to masks of real pictures.

Two routes lead there. Ours, distillation: ``pairs`` that the generator draws, ``augment``, ``fitting`` a U-Net to them,
``self_training`` on real pictures; the run is ``train_distilled``. The paper's, inversion: the objective of Eq. 7 is in
``reconstruction``, the steps by it in ``encoder_training``; the runs are ``train_encoder`` and, the paper's protocol,
``chunks``. What comes of either is kept by ``model_file`` and put to work by ``segmenter``, ``full_size``,
``segment_files`` and ``onnx_export``.
"""
