"""Every dataset of the paper's tables, declared once: `ROWS[name]`.

Sixteen are read as their publishers ship them. Of the others, those that The Cauldron or LLaVA-OneVision-Data have are
read from there (`--raw` is the subset's directory), and the rest from LLaVA's conversations, which most are passed
around as: `*.jsonl` or one `*.json` list, with image paths below the root.
"""

from __future__ import annotations

from configs.blends.rows import CAPTION, LETTER, READ, SHORT, Row

CAULDRON = "huggingface.co/datasets/HuggingFaceM4/the_cauldron"
ONEVISION = "huggingface.co/datasets/lmms-lab/LLaVA-OneVision-Data"
SEE = "see source"
BY = "CC BY 4.0"
BY_NC = "CC BY-NC 4.0"
BY_SA = "CC BY-SA 4.0"
BY_NC_SA = "CC BY-NC-SA 4.0"
ENGLISH_WEB = {"answer": "txt"}  # img2dataset's shards: KEY.jpg, KEY.txt, KEY.json


def _cauldron(name: str, title: str, task: str, subset: str, licence: str = SEE) -> Row:
    return Row(name, title, task, licence, "table_pairs", f"{CAULDRON}: {subset}")


def _onevision(name: str, title: str, task: str, subset: str, licence: str = SEE) -> Row:
    return Row(name, title, task, licence, "table_conversations", f"{ONEVISION}: {subset}")


def _turns(name: str, title: str, task: str, source: str, licence: str = SEE) -> Row:
    """Conversations in LLaVA's form."""
    return Row(name, title, task, licence, "json_conversations", source)


def _web(name: str, title: str, source: str, licence: str = SEE) -> Row:
    return Row(name, title, "caption", licence, "tar_columns", source, CAPTION, fields=ENGLISH_WEB)


_PUBLIC = (
    Row("coco-captions", "COCO", "caption", BY, "coco_captions", "cocodataset.org", CAPTION),
    Row("vqav2", "VQAv2", "vqa", BY, "vqav2", "visualqa.org", SHORT),
    Row("visual-genome", "Visual Genome", "vqa", BY, "visual_genome", "homes.cs.washington.edu/~ranjay/visualgenome"),
    Row("tallyqa", "TallyQA", "vqa", SEE, "tallyqa", "github.com/manoja328/TallyQA_dataset", SHORT),
    Row("gqa", "GQA", "reasoning", BY, "gqa", "cs.stanford.edu/people/dorarad/gqa", SHORT),
    Row("dvqa", "DVQA", "chart", BY_NC, "dvqa", "github.com/kushalkafle/DVQA_dataset", SHORT),
    Row("chartqa", "ChartQA", "chart", "GPL-3.0", "chartqa", "github.com/vis-nlp/ChartQA", SHORT),
    Row("infographicvqa", "InfographicVQA", "chart", SEE, "infographicvqa", "rrc.cvc.uab.es/?ch=17", SHORT),
    Row("docvqa", "DocVQA", "document", SEE, "docvqa", "rrc.cvc.uab.es/?ch=17", SHORT),
    Row("ocrvqa", "OCR-VQA", "ocr", SEE, "ocrvqa", "ocr-vqa.github.io", SHORT),
    Row("textvqa", "TextVQA", "ocr", BY, "textvqa", "textvqa.org", SHORT),
    Row("ai2d", "AI2D", "science", SEE, "ai2d", "prior.allenai.org/projects/diagram-understanding", LETTER),
    Row("scienceqa", "ScienceQA", "science", BY_NC_SA, "scienceqa", "github.com/lupantech/ScienceQA", LETTER),
)
_CAPTIONS = (
    _web("cc3m", "CC3M", "ai.google.com/research/ConceptualCaptions, by img2dataset"),
    _web("sbu", "SBU", "cs.rice.edu/~vo9/sbucaptions, by img2dataset"),
    _web("laion-115m", "LAION-115M", "LAION's English pairs, filtered and recaptioned by BLIP, by img2dataset"),
    _cauldron("textcaps", "TextCaps", "caption", "textcaps", BY),
    Row(
        *("sharegpt-4o", "ShareGPT-4o", "caption", SEE, "json_conversations"),
        source="huggingface.co/datasets/OpenGVLab/ShareGPT-4o",
        fields={"place_images": "first"},
    ),
)
_PHOTOS = (
    _cauldron("visual7w", "Visual7W", "vqa", "visual7w"),
    Row(
        *("vizwiz", "VizWiz", "vqa", BY, "json_columns"),
        source="vizwiz.org/tasks-and-datasets/vqa",
        prompt=SHORT,
        files="**/train.json",
        fields={"answer": "answers", "folder": "train", "id": "image"},
    ),
    _cauldron("okvqa", "OK-VQA", "knowledge", "okvqa"),
    _cauldron("aokvqa", "A-OKVQA", "knowledge", "aokvqa", "Apache 2.0"),
    _onevision("super-clevr", "Super-CLEVR", "reasoning", "super_clevr(MathV360K)"),
    _cauldron("raven", "Raven", "reasoning", "raven"),
    _cauldron("vsr", "VSR", "reasoning", "vsr", "Apache 2.0"),
)
_CHARTS = (
    _cauldron("plotqa", "PlotQA", "chart", "plotqa", BY),
    _turns("mmc-instruction", "MMC-Instruction", "chart", "github.com/FuxiaoLiu/MMC"),
    _cauldron("figureqa", "FigureQA", "chart", "figureqa"),
    _cauldron("iconqa", "IconQA", "chart", "iconqa", BY_NC_SA),
    _cauldron("chart2text", "Chart2Text", "chart", "chart2text"),
    _cauldron("diagram-image2text", "Diagram Image2Text", "chart", "diagram_image_to_text"),
    _turns("wikitablequestions", "WikiTableQuestions", "table", "github.com/ppasupat/WikiTableQuestions", BY_SA),
    _cauldron("robut-wtq", "RobuT WTQ", "table", "robut_wtq"),
    _cauldron("robut-wikisql", "RobuT WikiSQL", "table", "robut_wikisql"),
    _cauldron("robut-sqa", "RobuT SQA", "table", "robut_sqa"),
    _cauldron("hitab", "HiTab", "table", "hitab"),
)
_DOCUMENTS = (
    Row("docmatix", "Docmatix", "document", "MIT", "table_pairs", "huggingface.co/datasets/HuggingFaceM4/Docmatix"),
    _turns("dude", "DUDE", "document", "rrc.cvc.uab.es/?ch=23", BY),
    _cauldron("visualmrc", "VisualMRC", "document", "visualmrc"),
    _turns("tat-dqa", "TAT-DQA", "document", "nextplusplus.github.io/TAT-DQA", BY),
    _onevision("ureader-ie", "UReader IE", "document", "ureader_ie"),
    _onevision("ureader-kg", "UReader KG", "document", "ureader_kg"),
    _onevision("ureader-qa", "UReader QA", "document", "ureader_qa"),
)
_OCR = (
    _turns("coco-text", "COCO-Text", "ocr", "bgshih.github.io/cocotext", BY),
    _turns("textocr", "TextOCR", "ocr", "textvqa.org/textocr", BY),
    _turns("rects", "ReCTs", "ocr", "rrc.cvc.uab.es/?ch=12"),
    _turns("rrc-art", "RRC-ArT", "ocr", "rrc.cvc.uab.es/?ch=14"),
    _turns("rrc-lsvt", "RRC-LSVT", "ocr", "rrc.cvc.uab.es/?ch=16"),
    _turns("rctw", "RCTW", "ocr", "rctw.vlrlab.net"),
    Row(
        *("synthdog-en", "synthdog-en", "ocr", "MIT", "table_columns"),
        source="huggingface.co/datasets/naver-clova-ix/synthdog-en",
        prompt=READ,
        fields={"answer": "ground_truth.gt_parse.text_sequence"},
    ),
    Row(
        *("pdfa-eng", "pdfa-eng-wds", "ocr", SEE, "pdf_pages"),
        source="huggingface.co/datasets/pixparse/pdfa-eng-wds, the PDFs taken out of its shards",
        prompt=READ,
        fields={"answer": "text"},
    ),
    _cauldron("st-vqa", "ST-VQA", "ocr", "st_vqa"),
    _turns("screenqa", "ScreenQA", "ocr", "github.com/google-research-datasets/screen_qa", BY),
    _turns("slideqa", "SlideQA", "ocr", "github.com/nttmdlab-nlp/SlideVQA"),
    _turns("pdf-vqa", "PDF-VQA", "ocr", "github.com/adlnlp/pdfvqa"),
    _turns("vqa-cd", "VQA-CD", "ocr", "arxiv.org/abs/2310.18046"),
    _turns("vqaonbd", "VQAonBD", "ocr", "ilocr.iiit.ac.in/vqabd"),
    _turns("poie", "POIE", "ocr", "github.com/jfkuang/cfam"),
    _onevision("sroie", "SROIE", "ocr", "sroie"),
    _onevision("orand", "ORAND", "ocr", "orand_car_a"),
    _turns("est-vqa", "EST-VQA", "ocr", "github.com/xinke-wang/EST-VQA"),
    _turns("funsd", "FUNSD", "ocr", "guillaumejaume.github.io/FUNSD"),
    _turns("squad-rendered", "SQuAD (rendered)", "ocr", "rajpurkar.github.io/SQuAD-explorer", BY_SA),
    _turns("wordart", "WordArt", "ocr", "github.com/xdxie/WordArt"),
    _cauldron("iam", "IAM", "ocr", "iam"),
    _onevision("iiit5k", "IIIT5K", "ocr", "iiit5k"),
    _onevision("hme100k", "HME100K", "ocr", "hme100k"),
    _turns("bentham-qa", "Bentham QA", "ocr", "cvit.iiit.ac.in, handwritten question answering"),
    _turns("hw-squad", "HW-SQuAD", "ocr", "cvit.iiit.ac.in, handwritten question answering"),
    _cauldron("websight", "WebSight", "ocr", "websight", BY),
    _onevision("chromewriting", "ChromeWriting", "ocr", "chrome_writting"),
    _onevision("k12-printing", "K12 Printing", "ocr", "k12_printing"),
)
_MATH = (
    _cauldron("clevr-math", "CLEVR-Math", "math", "clevr_math", BY),
    _onevision("geoqa-plus", "GeoQA+", "math", "GeoQA+(MathV360K)"),
    _onevision("geometry3k", "Geometry3K", "math", "Geometry3K(MathV360K)"),
    _cauldron("tabmwp", "TabMWP", "math", "tabmwp", BY_NC_SA),
    _turns("gsm8k-rendered", "GSM8K (rendered)", "math", "github.com/openai/grade-school-math", "MIT"),
    _turns(
        "metamathqa-rendered", "MetaMathQA (rendered)", "math", "huggingface.co/datasets/meta-math/MetaMathQA", "MIT"
    ),
    _onevision("mavis-metagen", "MAVIS MetaGen", "math", "mavis_math_metagen"),
    _onevision("mavis-rule-geo", "MAVIS Rule Geo", "math", "mavis_math_rule_geo"),
    _onevision("geo170k-align", "Geo170K Align", "math", "geo170k(align)"),
    _onevision("geo170k-qa", "Geo170K QA", "math", "geo170k(qa)"),
    _cauldron("geomverse", "GeoMVerse", "math", "geomverse"),
    _onevision("geos", "GEOS", "math", "GEOS(MathV360K)"),
    _onevision("unigeo", "UniGeo", "math", "UniGeo(MathV360K)"),
)
_SCIENCE = (
    _cauldron("tqa", "TQA", "science", "tqa", "CC BY-NC 3.0"),
    _turns("arxivqa", "ArXivQA", "science", "huggingface.co/datasets/MMInstruction/ArxivQA", BY_SA),
    _turns("textbook", "Textbook data", "science", "the paper's own; any textbook conversations"),
    _onevision("lrv-instruction", "LRV-Instruction", "instruction", "lrv_normal(filtered)"),
    Row(
        *("llava-158k", "LLaVA-158K", "instruction", BY_NC, "json_conversations"),
        source="huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
        files="llava_instruct_150k.json",
        fields={"folder": "train2017"},
    ),
    _onevision("llavar", "LLaVAR", "instruction", "llavar_gpt4_20k"),
)
_INPUT = {"question": "instruction", "context": "input"}  # Alpaca's fields
_TEXT = (
    _turns("sharegpt", "ShareGPT", "text", "huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered"),
    _turns("slimorca", "SlimOrca", "text", "huggingface.co/datasets/Open-Orca/SlimOrca", "MIT"),
    _turns(
        "evol-instruct", "EvolInstruct", "text", "huggingface.co/datasets/WizardLMTeam/WizardLM_evol_instruct_V2_196k"
    ),
    Row(
        *("gpteacher", "GPTeacher", "text", "MIT", "json_columns"),
        source="github.com/teknium1/GPTeacher",
        prompt="{question}\n{context}",
        files="**/*.json",
        fields=_INPUT | {"answer": "response"},
    ),
    Row(
        *("alpaca-gpt4", "AlpacaGPT4", "text", BY_NC, "json_columns"),
        source="github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM",
        prompt="{question}\n{context}",
        files="**/alpaca_gpt4_data.json",
        fields=_INPUT | {"answer": "output"},
    ),
    Row(
        *("ultrainteract", "UltraInteract", "text", "MIT", "table_columns"),
        source="huggingface.co/datasets/openbmb/UltraInteract_sft",
        fields={"question": "instruction", "answer": "response"},
    ),
    Row(
        *("orcamath", "OrcaMathWordProblems", "text", "MIT", "table_columns"),
        source="huggingface.co/datasets/microsoft/orca-math-word-problems-200k",
    ),
    Row(
        *("mathinstruct", "MathInstruct", "text", "MIT", "json_columns"),
        source="huggingface.co/datasets/TIGER-Lab/MathInstruct",
        fields={"question": "instruction", "answer": "output"},
    ),
    Row(
        *("metamath", "MetaMath", "text", "MIT", "json_columns"),
        source="huggingface.co/datasets/meta-math/MetaMathQA",
        fields={"question": "query", "answer": "response"},
    ),
    Row(
        *("magicoder", "Magicoder", "text", "MIT", "json_columns"),
        source="huggingface.co/datasets/ise-uiuc/Magicoder-OSS-Instruct-75K and Magicoder-Evol-Instruct-110K",
        fields={"question": "problem|instruction", "answer": "solution|response", "id": "index"},
    ),
    Row(
        *("wizardcoder", "WizardCoder", "text", SEE, "json_columns"),
        source="huggingface.co/datasets/nickrosh/Evol-Instruct-Code-80k-v1",
        fields={"question": "instruction", "answer": "output"},
    ),
    Row(
        *("glaive-code-assistant", "GlaiveCodeAssistant", "text", "Apache 2.0", "json_columns"),
        source="huggingface.co/datasets/glaiveai/glaive-code-assistant",
    ),
)
_ALL = (*_PUBLIC, *_CAPTIONS, *_PHOTOS, *_CHARTS, *_DOCUMENTS, *_OCR, *_MATH, *_SCIENCE, *_TEXT)
ROWS: dict[str, Row] = {row.name: row for row in _ALL}
