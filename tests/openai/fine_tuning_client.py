"""Fine-tunes with the official `openai` package on a running Switchyard: upload, job, events, checkpoints, the model, and the end
of all of them.

    python tests/openai/fine_tuning_client.py --base-url http://127.0.0.1:8080/v1 --api-key KEY --base NAME
"""

import argparse
import hashlib
import io
import json
import time

import openai

ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i}!"}]}).encode() + b"\n"
    for i in range(20)
)


def refused(status, call):
    try:
        call()
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        return error
    raise AssertionError("it was not refused")


def over(client, job, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        job = client.fine_tuning.jobs.retrieve(job.id)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def files(client):
    sent = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600})
    assert (sent.object, sent.bytes, sent.filename, sent.purpose) == ("file", len(ROWS), "rows.jsonl", "fine-tune"), sent
    assert sent.expires_at == sent.created_at + 3600
    assert client.files.retrieve(sent.id) == sent
    assert client.files.content(sent.id).read() == ROWS
    assert sent.id in [file.id for file in client.files.list(purpose="fine-tune", limit=1)], "pages are followed"
    assert client.files.wait_for_processing(sent.id).status == "processed"
    assert client.files.delete(sent.id).deleted
    refused(404, lambda: client.files.retrieve(sent.id))
    refused(400, lambda: client.files.create(file=("rows.jsonl", ROWS), purpose="vision"))


def uploads(client):
    # The package cuts the content into parts, and completes the upload.
    upload = client.uploads.upload_file_chunked(
        file=ROWS, filename="rows.jsonl", bytes=len(ROWS), mime_type="text/jsonl", purpose="fine-tune",
        part_size=700, md5=hashlib.md5(ROWS).hexdigest(),
    )
    assert (upload.status, upload.file.bytes) == ("completed", len(ROWS)), upload
    assert client.files.content(upload.file.id).read() == ROWS
    begun = client.uploads.create(bytes=10, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    part = client.uploads.parts.create(begun.id, data=io.BytesIO(b"0123456789"))
    assert part.object == "upload.part" and part.upload_id == begun.id
    assert client.uploads.cancel(begun.id).status == "cancelled"
    refused(400, lambda: client.uploads.complete(begun.id, part_ids=[part.id]))
    return upload.file


def answer(client, model):
    messages = [{"role": "user", "content": "say 7"}]
    return client.chat.completions.create(model=model, messages=messages, max_tokens=4, temperature=0).model


def job(client, base, file):
    made = client.fine_tuning.jobs.create(
        model=base, training_file=file.id, suffix="sevens", seed=7, metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
    )
    assert (made.object, made.status, made.seed, made.training_file) == ("fine_tuning.job", "validating_files", 7, file.id), made
    assert made.fine_tuned_model is None and made.finished_at is None and made.trained_tokens is None and made.result_files == []
    done = over(client, made)
    assert done.status == "succeeded" and done.error is None, done
    assert done.fine_tuned_model.startswith(f"ft:{base}:") and ":sevens:" in done.fine_tuned_model
    assert done.hyperparameters.n_epochs == 2 and isinstance(done.hyperparameters.batch_size, int)
    assert done.method.type == "supervised" and done.method.supervised.hyperparameters.n_epochs == 2
    assert done.trained_tokens > 0 and done.finished_at >= done.created_at
    assert made.id in [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "a"})]

    events = list(client.fine_tuning.jobs.list_events(done.id, limit=3))
    assert len(events) > 3 and all(event.object == "fine_tuning.job.event" for event in events)
    assert events[-1].message.startswith("Created") and any(event.type == "metrics" for event in events)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(done.id, limit=2))
    assert len(checkpoints) >= 3 and [c.step_number for c in checkpoints] == sorted((c.step_number for c in checkpoints), reverse=True)
    for checkpoint in checkpoints:
        assert checkpoint.fine_tuning_job_id == done.id and checkpoint.metrics.train_loss > 0
        assert checkpoint.fine_tuned_model_checkpoint == f"{done.fine_tuned_model}:ckpt-step-{checkpoint.step_number}"
    for model in [done.fine_tuned_model, checkpoints[-1].fine_tuned_model_checkpoint]:
        assert answer(client, model) == model
        assert client.models.retrieve(model).id == model
        assert model in [listed.id for listed in client.models.list()]
    table = client.files.content(done.result_files[0]).text.splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy" and len(table) > 3

    deleted = client.models.delete(done.fine_tuned_model)
    assert deleted.deleted and deleted.id == done.fine_tuned_model
    refused(404, lambda: answer(client, done.fine_tuned_model))
    refused(403, lambda: client.models.delete(base))


def stopped(client, base, file):
    begun = client.fine_tuning.jobs.create(model=base, training_file=file.id)
    cancelled = client.fine_tuning.jobs.cancel(begun.id)
    assert cancelled.status == "cancelled" and cancelled.error is None and cancelled.finished_at is not None
    refused(400, lambda: client.fine_tuning.jobs.resume(begun.id))
    refused(404, lambda: client.fine_tuning.jobs.pause("ftjob-absent"))
    wrong = refused(400, lambda: client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id))
    assert wrong.param == "model", wrong
    reinforcement = {"type": "reinforcement"}
    wrong = refused(400, lambda: client.fine_tuning.jobs.create(model=base, training_file=file.id, method=reinforcement))
    assert wrong.param == "method.type", wrong
    wandb = [{"type": "wandb", "wandb": {"project": "p"}}]
    wrong = refused(400, lambda: client.fine_tuning.jobs.create(model=base, training_file=file.id, integrations=wandb))
    assert wrong.param == "integrations", wrong
    bad = client.files.create(file=("rows.jsonl", ROWS + b"not json\n"), purpose="fine-tune")
    failed = over(client, client.fine_tuning.jobs.create(model=base, training_file=bad.id))
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", "invalid_training_file", "training_file"), failed
    assert "line 21" in failed.error.message, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--base", required=True)
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.base_url, api_key=arguments.api_key, max_retries=0, timeout=120)
    files(client)
    file = uploads(client)
    job(client, arguments.base, file)
    stopped(client, arguments.base, file)
    print("all checks passed")


if __name__ == "__main__":
    main()
