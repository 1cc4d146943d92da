"""Where the methods come from, by the keys their `source` names."""

SOURCES = {
    "adamw": "Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization",
    "backpropagation": "Rumelhart, Hinton & Williams 1986, Learning Representations by "
    "Back-propagating Errors",
    "balms": "Ren et al. 2020, Balanced Meta-Softmax for Long-Tailed Visual Recognition",
    "bbn": "Zhou et al. 2020, BBN: Bilateral-Branch Network with Cumulative Learning for "
    "Long-Tailed Visual Recognition",
    "class_balanced": "Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples",
    "crt": "Kang et al. 2020, Decoupling Representation and Classifier for Long-Tailed Recognition",
    "dc": "Yang, Liu & Xu 2021, Free Lunch for Few-shot Learning: Distribution Calibration",
    "disalign": "Zhang et al. 2021, Distribution Alignment: A Unified Framework for Long-Tail "
    "Visual Recognition",
    "focal": "Lin et al. 2017, Focal Loss for Dense Object Detection",
    "gda": "Hastie, Tibshirani & Friedman 2009, The Elements of Statistical Learning, §4.3",
    "glag": "Zhang & Xiang 2022, Long-tailed Classification with Gradual Balanced Loss and "
    "Adaptive Feature Generation",
    "knn": "Wu et al. 2018, Unsupervised Feature Learning via Non-Parametric Instance "
    "Discrimination",
    "lda": "Friedman 1989, Regularized Discriminant Analysis",
    "lbfgs": "Liu & Nocedal 1989, On the Limited Memory BFGS Method for Large Scale Optimization",
    "ldam": "Cao et al. 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin "
    "Loss",
    "logit_adjust": "Menon et al. 2021, Long-Tail Learning via Logit Adjustment",
    "los": "Sun et al. 2025, Rethinking Classifier Re-Training in Long-Tailed Recognition: Label "
    "Over-Smooth Can Balance",
    "ltwb": "Alshammari et al. 2022, Long-Tailed Recognition via Weight Balancing",
    "mislas": "Zhong et al. 2021, Improving Calibration for Long-Tailed Recognition",
    "mixup": "Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization",
    "remix": "Chou et al. 2020, Remix: Rebalanced Mixup",
    "ridge": "Hoerl & Kennard 1970, Ridge Regression: Biased Estimation for Nonorthogonal Problems",
    "sla": "Liu et al. 2024, Improving Imbalance Classification via Ensemble Learning Based on "
    "Two-Stage Learning",
    "smote": "Chawla et al. 2002, SMOTE: Synthetic Minority Over-sampling Technique",
    "tailcalib": "Vigneswaran et al. 2021, Feature Generation for Long-tail Classification",
    "tde": "Tang et al. 2020, Long-Tailed Classification by Keeping the Good and Removing the Bad "
    "Momentum Causal Effect",
    "vs": "Kini et al. 2021, Label-Imbalanced and Group-Sensitive Classification under "
    "Overparameterization",
}
