"""The methods by which a tokenizer turns a conversation into what its model was trained to see."""

from collections.abc import Mapping, Sequence
from typing import Any

from numtx.text.chat import render_chat
from numtx.text.special_tokens import SpecialTokens

_NOT_DONE = ("return_assistant_tokens_mask", "sanitize_control_tokens")
_OF_THE_CALL = ("padding", "truncation", "max_length", "return_tensors")


class ChatTemplates(SpecialTokens):
    """A tokenizer's chat template, and conversations written with it.

    Attributes
    ----------
    chat_template : str or dict, optional
        One template, or several by name.
    """

    chat_template: str | dict[str, str] | None

    def __call__(self, text: Any = None, **options: Any) -> Any:
        """Return the encoding of a text."""
        raise TypeError(f"{type(self).__name__}: a tokenizer says how text is encoded")

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        return_dict: bool = True,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Return a conversation as the model was trained to see it: ids, or text with ``tokenize=False``.

        Parameters
        ----------
        conversation : list of dict, or a list of such lists
            ``[{"role": "user", "content": "Hello"}]``.
        tools, documents : list of dict, optional
            For templates that show them.
        chat_template : str, optional
            A template, or the name of one where the tokenizer has several. Default: the tokenizer's.
        add_generation_prompt : bool
            End with what opens the model's answer.
        continue_final_message : bool
            End inside the last message.
        tokenize, return_dict : bool
            A `BatchEncoding`, ``input_ids`` alone, or (``tokenize=False``) text.
        tokenizer_kwargs : dict, optional
            Further options of the call.
        **options
            ``padding, truncation, max_length, return_tensors`` go to the tokenizer, all else to the template.

        Raises
        ------
        ValueError
            If there is no template, or it does not render these messages.
        """
        for name in _NOT_DONE:
            if options.pop(name, False):
                raise ValueError(f"apply_chat_template: expected no {name}, which numtx does not do, got True")
        batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        lengths = {key: options.pop(key) for key in _OF_THE_CALL if key in options}
        template = self.get_chat_template(chat_template, tools)
        texts = [
            render_chat(
                messages,
                template,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                variables={**self.special_tokens_map, **options},
            )
            for messages in (conversation if batched else [conversation])
        ]
        shown = texts if batched else texts[0]
        if not tokenize:
            return shown
        # The template writes the special tokens.
        encoded = self(shown, add_special_tokens=False, **lengths, **(tokenizer_kwargs or {}))
        return encoded if return_dict else encoded["input_ids"]

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """Return the template that is meant: the one given, named, or the tokenizer's own."""
        known = self.chat_template
        if isinstance(known, dict):
            if chat_template is not None:
                return known.get(chat_template, chat_template)
            for name in (["tool_use"] if tools is not None else []) + ["default"]:
                if name in known:
                    return known[name]
            raise ValueError(f"apply_chat_template: expected chat_template among {', '.join(sorted(known))}, got none")
        template = known if chat_template is None else chat_template
        if template is None:
            raise ValueError(
                "apply_chat_template: expected a tokenizer with a chat template, got one without "
                "(chat_template='...' gives one)"
            )
        return template
