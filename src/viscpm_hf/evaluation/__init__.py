"""How good released models are: LLaVA-QA90 with a judge, FID and CLIP score of painted captions.

* runs.py: files that outlive an interrupted run; tables.py: results as text, Markdown or JSON
* questions.py: QA90's files; answers.py: what a model or a server answers; endpoint.py: what is asked over HTTP;
  judge.py: verdicts; scores.py: relative scores with their confidence intervals
* captions.py: prompts; painting.py: pictures of them; fid.py, clip.py: their scores
"""
