"""Sixteen public datasets: a small sample in the exact layout in which each is published, converted by its row."""

import pyarrow as pa
import pyarrow.parquet as pq

from configs.blends.catalog import ROWS
from data_pipelines.raw.entry import Spec
from tests.data_pipelines.raw_files import made, picture, put, rejected, texts

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
JPG = picture(64, 48, kind="JPEG")


def convert(tmp_path, name, files):
    return made(tmp_path, Spec.of(ROWS[name]), put(tmp_path / "raw", files))


def answers(*values):
    return [{"answer": v, "answer_confidence": "yes", "answer_id": i + 1} for i, v in enumerate(values)]


def test_coco_captions(tmp_path):
    image = {"license": 5, "file_name": "COCO_train2014_000000057870.jpg", "height": 48, "width": 64, "id": 57870}
    image |= {"coco_url": "http://images.cocodataset.org/train2014/COCO_train2014_000000057870.jpg"}
    image |= {"date_captured": "2013-11-14 16:28:13", "flickr_url": "http://farm4.staticflickr.com/3153/x.jpg"}
    notes = [{"image_id": 57870, "id": 787980, "caption": "A restaurant has modern wooden tables and chairs."}]
    notes += [{"image_id": 57870, "id": 789366, "caption": "A long restaurant table.\n"}]
    notes += [{"image_id": 1, "id": 5, "caption": "Of no image."}]
    held = {"info": {}, "images": [image], "licenses": [], "annotations": notes}
    files = {"annotations/captions_train2014.json": held, "train2014/COCO_train2014_000000057870.jpg": JPG}
    samples, report = convert(tmp_path, "coco-captions", files)
    assert [sample.id for sample in samples] == ["787980", "789366"]
    assert texts(samples[1]) == ["<image>\nDescribe the image in one sentence.", "A long restaurant table."]
    assert rejected(report) == {"missing_field": ["annotations/captions_train2014.json#2"]}


def test_vqav2(tmp_path):
    common = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "train2014"}
    questions = [
        {"image_id": 458752, "question": "What is this photo taken looking through?", "question_id": 458752000},
        {"image_id": 262146, "question": "Is the sky blue?", "question_id": 262146000},
        {"image_id": 458752, "question": "What position is this man playing?", "question_id": 458752001},
    ]
    notes = [
        {"question_type": "what is this", "multiple_choice_answer": answer, "answers": answers(answer)}
        | {"image_id": q["image_id"], "answer_type": "other", "question_id": q["question_id"]}
        for q, answer in zip(questions, ("net", "yes", "pitcher"), strict=True)
    ]
    files = {
        "v2_OpenEnded_mscoco_train2014_questions.json": common | {"task_type": "Open-Ended", "questions": questions},
        "v2_mscoco_train2014_annotations.json": common | {"annotations": notes},
        "train2014/COCO_train2014_000000458752.jpg": JPG,
        "train2014/COCO_train2014_000000262146.jpg": JPG,
    }
    samples, _ = convert(tmp_path, "vqav2", files)
    assert texts(samples[0]) == [
        *("<image>\nWhat is this photo taken looking through?" + SHORT, "net"),
        *("What position is this man playing?" + SHORT, "pitcher"),
    ]
    assert texts(samples[1]) == ["<image>\nIs the sky blue?" + SHORT, "yes"]
    assert samples[0].id == "458752000" and samples[0].images == (JPG,)


def test_gqa(tmp_path):
    question = {"semantic": [], "entailed": ["02930153"], "equivalent": [], "question": "What is on the white wall?"}
    question |= {"imageId": "2354786", "isBalanced": True, "groups": {"global": "", "local": "10q-wall_on,s"}}
    question |= {"answer": "pipe", "semanticStr": "select: wall", "fullAnswer": "The pipe is on the wall.", "types": {}}
    other = question | {"question": "Is it dark?", "answer": "yes"}
    files = {"train_balanced_questions.json": {"02930152": question, "07333408": other}, "images/2354786.jpg": JPG}
    samples, _ = convert(tmp_path, "gqa", files)
    assert texts(samples[0]) == ["<image>\nWhat is on the white wall?" + SHORT, "pipe", "Is it dark?" + SHORT, "yes"]


def test_textvqa(tmp_path):
    question = {"question": "what is the brand of this camera?", "image_id": "003a8ae2ef43b901", "question_id": 34602}
    question |= {"image_classes": ["Camera"], "image_width": 1024, "image_height": 664, "set_name": "train"}
    question |= {"flickr_original_url": "https://farm1.staticflickr.com/x.jpg", "question_tokens": ["what", "is"]}
    question |= {"answers": ["nous les gosses", "dakota", "clos culombu", "dakota digital", "dakota"] + ["dakota"] * 5}
    held = {"dataset_type": "train", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [question]}
    files = {"TextVQA_0.5.1_train.json": held, "train_images/003a8ae2ef43b901.jpg": JPG}
    samples, _ = convert(tmp_path, "textvqa", files)
    assert texts(samples[0]) == ["<image>\nwhat is the brand of this camera?" + SHORT, "dakota"]


def test_docvqa(tmp_path):
    question = {"questionId": 337, "question": "what is the date mentioned in this letter?", "data_split": "train"}
    question |= {"image": "documents/xnbl0037_1.png", "docId": 279, "ucsf_document_id": "xnbl0037"}
    question |= {"question_types": ["handwritten", "form"], "ucsf_document_page_no": "1", "answers": ["1/8/93"]}
    held = {"dataset_name": "SP-DocVQA", "dataset_version": "1.0", "dataset_split": "train", "data": [question]}
    for folder in ("", "train/"):
        files = {f"{folder}train_v1.0_withQT.json": held, f"{folder}documents/xnbl0037_1.png": picture()}
        samples, _ = convert(tmp_path / (folder or "top"), "docvqa", files)
        assert texts(samples[0]) == ["<image>\nwhat is the date mentioned in this letter?" + SHORT, "1/8/93"]


def test_infographicvqa(tmp_path):
    question = {"questionId": 65718, "question": "Which social platform has heavy female audience?"}
    question |= {"image_local_name": "20471.jpeg", "image_url": "https://x/y.jpg", "ocr_output_file": "20471.json"}
    question |= {"answers": ["pinterest"], "data_split": "train"}
    held = {
        "dataset_name": "infographicVQA",
        "dataset_version": "train_v1.0",
        "dataset_split": "train",
        "data": [question],
    }
    files = {"infographicsVQA_train_v1.0.json": held, "infographicsvqa_images/20471.jpeg": JPG}
    samples, report = convert(tmp_path, "infographicvqa", files)
    assert texts(samples[0]) == ["<image>\nWhich social platform has heavy female audience?" + SHORT, "pinterest"]
    assert not report["noted"]


def test_chartqa(tmp_path):
    human = [{"imgname": "two_col_1.png", "query": "What is the value?", "label": "3.77"}]
    augmented = [{"imgname": "two_col_1.png", "query": "Which year?", "label": "2019"}]
    folder = "ChartQA Dataset/train"
    files = {f"{folder}/train_human.json": human, f"{folder}/train_augmented.json": augmented}
    files |= {f"{folder}/png/two_col_1.png": picture(), f"{folder}/tables/two_col_1.csv": "Year,Value\n2019,3.77\n"}
    samples, _ = convert(tmp_path, "chartqa", files)
    assert texts(samples[0]) == ["<image>\nWhat is the value?" + SHORT, "3.77", "Which year?" + SHORT, "2019"]


def test_dvqa(tmp_path):
    question = {"question": "Is the bar larger?", "question_id": 1, "template_id": "reasoning", "answer": "no"}
    question |= {"image": "bar_train_00000001.png", "answer_bbox": [], "question_type": "reasoning"}
    number = question | {"question": "What is the value?", "question_id": 2, "answer": 9}
    files = {"qa/train_qa.json": [question, number], "images/bar_train_00000001.png": picture()}
    samples, _ = convert(tmp_path, "dvqa", files)
    assert texts(samples[0]) == ["<image>\nIs the bar larger?" + SHORT, "no", "What is the value?" + SHORT, "9"]
    assert samples[0].id == "bar_train_00000001-1"


def test_ai2d(tmp_path):
    def diagram(number):
        question = {"abcLabel": True, "answerTexts": ["ears", "nose", "mouth", "face"], "correctAnswer": 3}
        questions = {"What is A in the diagram?": question | {"questionId": f"{number}.png-0"}}
        return {"imageName": f"{number}.png", "questions": questions}

    files = {f"ai2d/questions/{n}.png.json": diagram(n) for n in (0, 1)} | {"ai2d/ai2d_test_ids.csv": "1\n"}
    files |= {f"ai2d/images/{n}.png": picture() for n in (0, 1)}
    samples, _ = convert(tmp_path, "ai2d", files)
    choices = "\nA. ears\nB. nose\nC. mouth\nD. face"
    assert [texts(sample) for sample in samples] == [["<image>\nWhat is A in the diagram?" + choices + LETTER, "D"]]
    assert samples[0].id == "0.png-0"  # 1.png is of the test split


def test_scienceqa(tmp_path):
    problem = {"question": "Which is the capital of Oregon?", "choices": ["Salem", "Portland"], "answer": 0}
    problem |= {
        "hint": "",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade3",
        "subject": "social science",
    }
    problem |= {"topic": "geography", "category": "State capitals", "skill": "x", "lecture": "", "solution": "Salem."}
    text = problem | {"image": None, "hint": "Think.", "answer": 1, "split": "train"}
    problems = {"1": problem | {"split": "train"}, "2": text, "3": problem | {"split": "test"}}
    files = {"data/scienceqa/problems.json": problems, "data/scienceqa/pid_splits.json": {"train": ["1", "2"]}}
    samples, _ = convert(tmp_path, "scienceqa", files | {"images/train/1/image.png": picture()})
    choices = "Which is the capital of Oregon?\nA. Salem\nB. Portland"
    assert texts(samples[0]) == ["<image>\n" + choices + LETTER, "A"]
    assert texts(samples[1]) == ["Think.\n" + choices + LETTER, "B"] and not samples[1].images
    assert len(samples) == 2


def test_ocrvqa(tmp_path):
    book = {"imageURL": "http://ecx.images-amazon.com/images/I/51UvPNC0gyL.jpg", "title": "Mom's Planner", "split": 1}
    book |= {"questions": ["What is the title?", "Is it a comic?"], "answers": ["Mom's Planner", "No"]}
    book |= {"authorName": "Sandra Boynton", "genre": "Calendars"}
    files = {"dataset.json": {"761183272": book, "1": book | {"split": 3}}, "images/761183272.jpg": JPG}
    samples, _ = convert(tmp_path, "ocrvqa", files)
    assert len(samples) == 1 and samples[0].id == "761183272-0"
    assert texts(samples[0])[1:] == ["Mom's Planner", "Is it a comic?" + SHORT, "No"]


def test_visual_genome(tmp_path):
    def qa(number, image, question, answer):
        return {
            "a_objects": [],
            "question": question,
            "image_id": image,
            "qa_id": number,
            "answer": answer,
            "q_objects": [],
        }

    questions = [{"id": 1, "qas": [qa(986768, 1, "What color is the clock?", "Green.")]}]
    questions += [{"id": 2, "qas": [qa(987000, 2, "Where?", "Street.")]}]
    url = "https://cs.stanford.edu/people/rak248/VG_100K"
    images = [{"width": 800, "url": f"{url}_2/1.jpg", "height": 600, "image_id": 1, "coco_id": None, "flickr_id": None}]
    images += [{"width": 800, "url": f"{url}/2.jpg", "height": 600, "image_id": 2, "coco_id": None, "flickr_id": None}]
    files = {
        "question_answers.json": questions,
        "image_data.json": images,
        "VG_100K_2/1.jpg": JPG,
        "VG_100K/2.jpg": JPG,
    }
    samples, _ = convert(tmp_path, "visual-genome", files)
    assert [texts(sample) for sample in samples] == [
        ["<image>\nWhat color is the clock?", "Green."],
        ["<image>\nWhere?", "Street."],
    ]


def test_tallyqa(tmp_path):
    question = {"answer": 4, "data_source": "imported_genome", "image": "VG_100K_2/2410408.jpg", "image_id": 92410408}
    question |= {"issimple": False, "question": "How many headlights does the black bus have?", "question_id": 30095774}
    coco = question | {"image": "train2014/COCO_train2014_000000458752.jpg", "question_id": 1, "answer": 0}
    files = {"train.json": [question, coco], "VG_100K_2/2410408.jpg": JPG}
    samples, report = convert(tmp_path, "tallyqa", files)
    assert texts(samples[0]) == ["<image>\nHow many headlights does the black bus have?" + SHORT, "4"]
    assert rejected(report) == {"missing_file": ["1"]}


def test_sharegpt(tmp_path):
    turns = [{"from": "human", "value": "Summarize the main ideas."}, {"from": "gpt", "value": "Here they are."}]
    thread = {"id": "QWJhYvA_0", "conversations": turns}
    samples, report = convert(
        tmp_path,
        "sharegpt",
        {"ShareGPT_V3_unfiltered_cleaned_split.json": [thread, {"id": "empty", "conversations": []}]},
    )
    assert samples[0].id == "QWJhYvA_0" and texts(samples[0]) == ["Summarize the main ideas.", "Here they are."]
    assert rejected(report) == {"no_answer": ["empty"]}


def test_orcamath(tmp_path):
    (tmp_path / "raw" / "data").mkdir(parents=True)
    table = pa.table({"question": ["Jungkook is the 5th place. Who is next?"], "answer": ["The 6th."]})
    pq.write_table(table, tmp_path / "raw" / "data" / "train-00000-of-00001.parquet")
    samples, _ = convert(tmp_path, "orcamath", {})
    assert texts(samples[0]) == ["Jungkook is the 5th place. Who is next?", "The 6th."]


def test_magicoder(tmp_path):
    oss = {"lang": "python", "raw_index": 48, "index": 100, "seed": "x = 1", "openai_fingerprint": "fp_ee"}
    oss |= {"problem": "Write a function.", "solution": "```python\ndef f(): ...\n```"}
    files = {"data-oss_instruct-decontaminated.jsonl": [oss]}
    files |= {"data-evol_instruct-decontaminated.jsonl": [{"instruction": "Sort it.", "response": "sorted(x)"}]}
    samples, _ = convert(tmp_path, "magicoder", files)
    assert [texts(sample) for sample in samples] == [
        ["Sort it.", "sorted(x)"],
        ["Write a function.", "```python\ndef f(): ...\n```"],
    ]


def test_synthdog_and_llava_instruct(tmp_path):
    """Not of the sixteen; their rows read a column of JSON, and paths below a folder."""
    (tmp_path / "raw").mkdir()
    image = pa.array([{"bytes": picture(), "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    truth = ['{"gt_parse": {"text_sequence": "some text"}}']
    pq.write_table(pa.table({"image": image, "ground_truth": truth}), tmp_path / "raw" / "train-00000-of-00001.parquet")
    samples, _ = convert(tmp_path, "synthdog-en", {})
    assert texts(samples[0]) == ["<image>\nRead all text in the image.", "some text"]
    turns = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A bus."}]
    record = {"id": "000000033471", "image": "000000033471.jpg", "conversations": turns}
    files = {"llava_instruct_150k.json": [record], "train2017/000000033471.jpg": JPG}
    samples, _ = convert(tmp_path, "llava-158k", files)
    assert samples[0].id == "000000033471" and samples[0].images == (JPG,)


def test_a_broken_annotation_costs_itself_alone(tmp_path):
    book = {"imageURL": "http://x/y.jpg", "questions": ["What?", "Who?"], "answers": ["a"], "split": 1}
    files = {"dataset.json": {"1": book, "2": {"split": 1}, "3": {}}, "images/1.jpg": JPG}
    samples, report = convert(tmp_path / "ocr", "ocrvqa", files)
    assert texts(samples[0]) == ["<image>\nWhat?" + SHORT, "a"] and len(samples) == 1
    assert report["rejected"]["missing_field"]["count"] == 3

    question = {"abcLabel": False, "answerTexts": ["x", "y"], "correctAnswer": 0, "questionId": "0.png-0"}
    whole = {"imageName": "0.png", "questions": {"Which?": question, "Where?": {"questionId": "0.png-1"}}}
    files = {"questions/0.png.json": whole, "questions/1.png.json": "{", "images/0.png": picture()}
    samples, report = convert(tmp_path / "ai2d", "ai2d", files)
    assert len(samples) == 1 and texts(samples[0])[1] == "A"
    assert {reason: held["count"] for reason, held in report["rejected"].items()} == {"bad_json": 1, "missing_field": 1}

    qa = {"question": "Where?", "image_id": 1, "qa_id": 7, "answer": "Street."}
    files = {"question_answers.json": [{"id": 1, "qas": [qa, {"qa_id": 8}]}, {"id": 2}], "VG_100K/1.jpg": JPG}
    files["image_data.json"] = [{"image_id": 1, "url": "https://x/VG_100K/1.jpg"}, {}]
    samples, report = convert(tmp_path / "vg", "visual-genome", files)
    assert len(samples) == 1 and report["rejected"]["missing_field"]["count"] == 2
