"""Where the methods come from, by the keys their `source` names."""

SOURCES = {
    "adamw": "Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization",
    "balms": "Ren et al. 2020, Balanced Meta-Softmax for Long-Tailed Visual Recognition",
    "class_balanced": "Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples",
    "crt": "Kang et al. 2020, Decoupling Representation and Classifier for Long-Tailed Recognition",
    "disalign": "Zhang et al. 2021, Distribution Alignment: A Unified Framework for Long-Tail "
    "Visual Recognition",
    "focal": "Lin et al. 2017, Focal Loss for Dense Object Detection",
    "glag": "Zhang & Xiang 2022, Long-tailed Classification with Gradual Balanced Loss and "
    "Adaptive Feature Generation",
    "ldam": "Cao et al. 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin "
    "Loss",
    "logit_adjust": "Menon et al. 2021, Long-Tail Learning via Logit Adjustment",
    "los": "Sun et al. 2025, Rethinking Classifier Re-Training in Long-Tailed Recognition: Label "
    "Over-Smooth Can Balance",
    "mislas": "Zhong et al. 2021, Improving Calibration for Long-Tailed Recognition",
    "vs": "Kini et al. 2021, Label-Imbalanced and Group-Sensitive Classification under "
    "Overparameterization",
}
