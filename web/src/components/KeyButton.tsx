/** Where a key is wanted: the words for it, and the button that asks for it. */

import { apiKey, dialog } from "../store/preferences";

/** Why a request without the right key is refused. */
export function keyTrouble(): string {
  return apiKey.value ? "The server does not know this API key." : "This server wants an API key.";
}

export function KeyButton() {
  return (
    <button
      type="button"
      class="small primary"
      onClick={() => {
        dialog.value = "key";
      }}
    >
      {apiKey.value ? "Change the key" : "Enter the key"}
    </button>
  );
}
