"""Where the methods come from, by the keys their `source` names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """A publication.

    Attributes
    ----------
    authors
        ``Family, Given`` of each; a last ``others`` stands for more.
    year
        Of publication.
    title
        As printed.
    venue
        Conference, journal, or whoever keeps it.
    kind
        Entry type of BibTeX: ``inproceedings``, ``article`` or ``misc``.
    more
        Further fields of the entry, such as volume and pages.
    """

    authors: tuple[str, ...]
    year: int
    title: str
    venue: str
    kind: str = "inproceedings"
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """``Kang et al. 2020, Decoupling …``: up to three authors by name."""
        names = [author.partition(",")[0] for author in self.authors]
        if len(names) > 3 or names[-1] == "others":
            told = f"{names[0]} et al."
        else:
            told = " & ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
        place = f", {self.more['note']}" if "note" in self.more else ""
        return f"{told} {self.year}, {self.title}{place}"


def _article(
    authors: tuple[str, ...], year: int, title: str, venue: str, *, volume: str, pages: str
) -> Source:
    return Source(authors, year, title, venue, "article", {"volume": volume, "pages": pages})


_CVPR = "IEEE/CVF Conference on Computer Vision and Pattern Recognition"
_ICLR = "International Conference on Learning Representations"
_NEURIPS = "Advances in Neural Information Processing Systems"

BIBLIOGRAPHY = {
    "adamw": Source(
        ("Loshchilov, Ilya", "Hutter, Frank"), 2019, "Decoupled Weight Decay Regularization", _ICLR
    ),
    "backpropagation": _article(
        ("Rumelhart, David E.", "Hinton, Geoffrey E.", "Williams, Ronald J."),
        1986,
        "Learning Representations by Back-propagating Errors",
        "Nature",
        volume="323",
        pages="533--536",
    ),
    "balms": Source(
        (
            "Ren, Jiawei",
            "Yu, Cunjun",
            "Sheng, Shunan",
            "Ma, Xiao",
            "Zhao, Haiyu",
            "Yi, Shuai",
            "Li, Hongsheng",
        ),
        2020,
        "Balanced Meta-Softmax for Long-Tailed Visual Recognition",
        _NEURIPS,
    ),
    "bbn": Source(
        ("Zhou, Boyan", "Cui, Quan", "Wei, Xiu-Shen", "Chen, Zhao-Min"),
        2020,
        "BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed Visual Recognition",
        _CVPR,
    ),
    "class_balanced": Source(
        ("Cui, Yin", "Jia, Menglin", "Lin, Tsung-Yi", "Song, Yang", "Belongie, Serge"),
        2019,
        "Class-Balanced Loss Based on Effective Number of Samples",
        _CVPR,
    ),
    "crt": Source(
        (
            "Kang, Bingyi",
            "Xie, Saining",
            "Rohrbach, Marcus",
            "Yan, Zhicheng",
            "Gordo, Albert",
            "Feng, Jiashi",
            "Kalantidis, Yannis",
        ),
        2020,
        "Decoupling Representation and Classifier for Long-Tailed Recognition",
        _ICLR,
    ),
    "dc": Source(
        ("Yang, Shuo", "Liu, Lu", "Xu, Min"),
        2021,
        "Free Lunch for Few-shot Learning: Distribution Calibration",
        _ICLR,
    ),
    "disalign": Source(
        ("Zhang, Songyang", "Li, Zeming", "Yan, Shipeng", "He, Xuming", "Sun, Jian"),
        2021,
        "Distribution Alignment: A Unified Framework for Long-Tail Visual Recognition",
        _CVPR,
    ),
    "focal": Source(
        ("Lin, Tsung-Yi", "Goyal, Priya", "Girshick, Ross", "He, Kaiming", "Dollár, Piotr"),
        2017,
        "Focal Loss for Dense Object Detection",
        "IEEE International Conference on Computer Vision",
    ),
    "gda": Source(
        ("Hastie, Trevor", "Tibshirani, Robert", "Friedman, Jerome"),
        2009,
        "The Elements of Statistical Learning",
        "Springer",
        "misc",
        {"edition": "Second", "note": "§4.3"},
    ),
    "glag": Source(
        ("Zhang, Zihan", "Xiang, Xiang"),
        2022,
        "Long-tailed Classification with Gradual Balanced Loss and Adaptive Feature Generation",
        "arXiv:2203.00452",
        "misc",
    ),
    "halving": Source(
        ("Jamieson, Kevin", "Talwalkar, Ameet"),
        2016,
        "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
        "International Conference on Artificial Intelligence and Statistics",
    ),
    "knn": Source(
        ("Wu, Zhirong", "Xiong, Yuanjun", "Yu, Stella X.", "Lin, Dahua"),
        2018,
        "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
        _CVPR,
    ),
    "lda": _article(
        ("Friedman, Jerome H.",),
        1989,
        "Regularized Discriminant Analysis",
        "Journal of the American Statistical Association",
        volume="84",
        pages="165--175",
    ),
    "lbfgs": _article(
        ("Liu, Dong C.", "Nocedal, Jorge"),
        1989,
        "On the Limited Memory BFGS Method for Large Scale Optimization",
        "Mathematical Programming",
        volume="45",
        pages="503--528",
    ),
    "ldam": Source(
        ("Cao, Kaidi", "Wei, Colin", "Gaidon, Adrien", "Arechiga, Nikos", "Ma, Tengyu"),
        2019,
        "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        _NEURIPS,
    ),
    "logit_adjust": Source(
        (
            "Menon, Aditya Krishna",
            "Jayasumana, Sadeep",
            "Rawat, Ankit Singh",
            "Jain, Himanshu",
            "Veit, Andreas",
            "Kumar, Sanjiv",
        ),
        2021,
        "Long-Tail Learning via Logit Adjustment",
        _ICLR,
    ),
    "los": Source(
        (
            "Sun, Siyu",
            "Lu, Han",
            "Li, Jiangtong",
            "Xie, Yichen",
            "Li, Tianjiao",
            "Yang, Xiaokang",
            "Zhang, Liqing",
            "Yan, Junchi",
        ),
        2025,
        "Rethinking Classifier Re-Training in Long-Tailed Recognition: Label Over-Smooth Can "
        "Balance",
        _ICLR,
    ),
    "ltwb": Source(
        ("Alshammari, Shaden", "Wang, Yu-Xiong", "Ramanan, Deva", "Kong, Shu"),
        2022,
        "Long-Tailed Recognition via Weight Balancing",
        _CVPR,
    ),
    "mislas": Source(
        ("Zhong, Zhisheng", "Cui, Jiequan", "Liu, Shu", "Jia, Jiaya"),
        2021,
        "Improving Calibration for Long-Tailed Recognition",
        _CVPR,
    ),
    "mixup": Source(
        ("Zhang, Hongyi", "Cisse, Moustapha", "Dauphin, Yann N.", "Lopez-Paz, David"),
        2018,
        "mixup: Beyond Empirical Risk Minimization",
        _ICLR,
    ),
    "optuna": Source(
        (
            "Akiba, Takuya",
            "Sano, Shotaro",
            "Yanase, Toshihiko",
            "Ohta, Takeru",
            "Koyama, Masanori",
        ),
        2019,
        "Optuna: A Next-generation Hyperparameter Optimization Framework",
        "ACM SIGKDD International Conference on Knowledge Discovery and Data Mining",
    ),
    "remix": Source(
        ("Chou, Hsin-Ping", "Chang, Shih-Chieh", "Pan, Jia-Yu", "Wei, Wei", "Juan, Da-Cheng"),
        2020,
        "Remix: Rebalanced Mixup",
        "European Conference on Computer Vision Workshops",
    ),
    "ride": Source(
        ("Wang, Xudong", "Lian, Long", "Miao, Zhongqi", "Liu, Ziwei", "Yu, Stella X."),
        2021,
        "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts",
        _ICLR,
    ),
    "ridge": _article(
        ("Hoerl, Arthur E.", "Kennard, Robert W."),
        1970,
        "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
        "Technometrics",
        volume="12",
        pages="55--67",
    ),
    "sla": Source(
        ("Liu, Na", "others"),
        2024,
        "Improving Imbalance Classification via Ensemble Learning Based on Two-Stage Learning",
        "Frontiers in Computational Neuroscience",
        "article",
    ),
    "smote": _article(
        ("Chawla, Nitesh V.", "Bowyer, Kevin W.", "Hall, Lawrence O.", "Kegelmeyer, W. Philip"),
        2002,
        "SMOTE: Synthetic Minority Over-sampling Technique",
        "Journal of Artificial Intelligence Research",
        volume="16",
        pages="321--357",
    ),
    "tailcalib": Source(
        (
            "Vigneswaran, Rahul",
            "Law, Marc T.",
            "Balasubramanian, Vineeth N.",
            "Tapaswi, Makarand",
        ),
        2021,
        "Feature Generation for Long-tail Classification",
        "Indian Conference on Computer Vision, Graphics and Image Processing",
    ),
    "tde": Source(
        ("Tang, Kaihua", "Huang, Jianqiang", "Zhang, Hanwang"),
        2020,
        "Long-Tailed Classification by Keeping the Good and Removing the Bad Momentum Causal "
        "Effect",
        _NEURIPS,
    ),
    "temperature": Source(
        ("Guo, Chuan", "Pleiss, Geoff", "Sun, Yu", "Weinberger, Kilian Q."),
        2017,
        "On Calibration of Modern Neural Networks",
        "International Conference on Machine Learning",
    ),
    "tpe": Source(
        ("Bergstra, James", "Bardenet, Rémi", "Bengio, Yoshua", "Kégl, Balázs"),
        2011,
        "Algorithms for Hyper-Parameter Optimization",
        _NEURIPS,
    ),
    "vs": Source(
        (
            "Kini, Ganesh Ramachandra",
            "Paraskevas, Orestis",
            "Oymak, Samet",
            "Thrampoulidis, Christos",
        ),
        2021,
        "Label-Imbalanced and Group-Sensitive Classification under Overparameterization",
        _NEURIPS,
    ),
}
"""Publications by key."""

SOURCES = {key: source.text for key, source in BIBLIOGRAPHY.items()}
"""What people read of them, by key."""
